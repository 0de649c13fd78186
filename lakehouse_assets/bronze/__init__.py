"""Tables of landed rows, exactly as they came."""
