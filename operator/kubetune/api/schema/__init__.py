"""What every declared value is made of: base classes, rules, and the schema rendered from them."""
