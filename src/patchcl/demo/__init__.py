"""The whole story on generated scans."""
