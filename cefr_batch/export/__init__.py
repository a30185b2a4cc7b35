"""The trained model in the forms that other programs take, checked by running it there."""
