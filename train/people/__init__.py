"""Pictures of people: collections of labelled pictures, masks of people in a database, and crops to train on."""
