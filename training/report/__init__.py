"""What a trained network does on data, and what its scales became: numbers, tables, pictures."""
