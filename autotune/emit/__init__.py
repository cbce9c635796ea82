"""What a search leaves to run: best.yaml, launch.sh, the Hugging Face command line."""
