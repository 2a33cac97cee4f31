"""The outputs of `client infer`: answer files, drawn masks, a contact sheet."""
