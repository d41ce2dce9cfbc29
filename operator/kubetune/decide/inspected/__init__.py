"""What is looked into: Dataset, Model, PromptTemplate, and the life of an inspection."""
