"""PromptTemplate: how a row becomes text."""
