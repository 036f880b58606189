"""Records and pictures: sources, indexes, mixtures and the order in which a stage reads them. Imports no torch."""
