"""Mirror live requests of a served model to another version of it."""
