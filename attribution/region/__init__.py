"""Methods that give whole regions what a gradient method says of their pixels."""
