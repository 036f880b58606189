"""Records and pictures: sources, their index, mixtures and the order in which a stage reads them. No torch."""
