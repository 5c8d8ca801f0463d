"""What the training recipes share: tokenizer, data, model, file formats."""
