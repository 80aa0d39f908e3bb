"""Methods that differentiate the score once, or over noise."""
