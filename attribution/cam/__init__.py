"""Methods that weigh the feature maps of a layer."""
