"""What a release consists of, made from the checkout: `python -m deploy.release`."""
