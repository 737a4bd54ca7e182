"""What an audit of a machine looks at: a module for each part of it, and the facts for all."""
