"""What families of one kind share around their layers: embedding, layers, head."""
