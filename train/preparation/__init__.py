"""Faces cut out of films and photographs, as training reads them; copies found."""
