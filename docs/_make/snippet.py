from transformers import AutoModel, AutoTokenizer
from anylocal_bert import capture_text, plot
name = "sentence-transformers/all-MiniLM-L6-v2"
bert = AutoModel.from_pretrained(name), AutoTokenizer.from_pretrained(name)
maps = capture_text(*bert, "The animal slept because it was tired.")
plot.lines(maps[5], head=11, query="it")
