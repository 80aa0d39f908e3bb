"""Speed and faithfulness, measured; run from a checkout."""
