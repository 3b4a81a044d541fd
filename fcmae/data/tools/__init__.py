"""What looks at all images of a source, each once: packing, inspecting, verifying."""
