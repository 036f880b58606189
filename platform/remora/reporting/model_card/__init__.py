"""The papers that go with a model: a model card for the Hugging Face hub, and a bill of materials (CycloneDX)."""
