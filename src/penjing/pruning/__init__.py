"""What is cut: importance, allocation, surgery and its proof."""
