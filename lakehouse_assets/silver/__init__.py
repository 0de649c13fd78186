"""Tables of typed, deduplicated, judged rows, and the quarantine beside them."""
