"""Who may call: API keys, tokens of an identity provider, scopes and rates."""
