"""What is inspected: Dataset, Model, PromptTemplate, and the life of an inspection."""
