"""One photo: read, freed of metadata, decoded within limits, and reduced to the input of the model."""
