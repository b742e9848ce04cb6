"""Networks below a head for boxes or masks: backbones, heads, and the space of both together, `SPACE+HEAD`."""
