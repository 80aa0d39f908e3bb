"""Methods that remove parts of the image and look at the score."""
