"""How one owner of records trains."""
