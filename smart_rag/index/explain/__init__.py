"""Why a hit was found: its matches, and pictures of them."""
