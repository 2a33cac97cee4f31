"""Small images in each layout of each format, with the pixels that the format's definition gives them."""
