"""`bench tune`: search the settings of a served model by measured curves, a simulation, and measured trials."""
