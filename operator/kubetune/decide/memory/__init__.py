"""How much memory a training takes: said before it starts, and once it had too little."""
