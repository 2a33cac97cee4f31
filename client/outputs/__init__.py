"""What is written of the answers: files of rows, pictures of masks, a contact sheet."""
