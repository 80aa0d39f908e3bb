"""Methods that hand the score back through the network, rule by rule."""
