"""Methods that say what a layer's units do."""
