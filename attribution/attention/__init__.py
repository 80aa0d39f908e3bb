"""Methods that read what the tokens of a transformer attend to."""
