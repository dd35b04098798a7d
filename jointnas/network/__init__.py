"""The blueprint of a network and what is read off it: costs, the module, morphisms; one file a family in `families`."""
