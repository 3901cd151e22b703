"""The verbs: one public function per file."""
