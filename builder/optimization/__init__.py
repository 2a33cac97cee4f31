"""`builder optimize`: build candidates, measure them as served, and choose the best that passes its verdict."""
