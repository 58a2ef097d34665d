"""What a dashboard is made of: TensorBoard's files, their curves, texts and pictures, and the links that open them."""
