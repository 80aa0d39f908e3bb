"""Maps that know nothing of the network: the floor of every study."""
