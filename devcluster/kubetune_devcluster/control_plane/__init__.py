"""The control plane: its programs, its certificates, and ways into it."""
