"""How a running loader is changed, tested before, and watched after."""
