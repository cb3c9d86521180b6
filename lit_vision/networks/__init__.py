"""Networks as plain nn.Modules: images in, logits out."""
