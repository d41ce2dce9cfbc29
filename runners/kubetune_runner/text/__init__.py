"""Rows become text, and text becomes token ids: prompts, chats, preferences."""
