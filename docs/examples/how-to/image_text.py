"""
What a word looks at in an image
================================

A model that reads images and a text has a token for each patch of an image. A capture
knows which token stands for which patch, and draws what a word looks at over the image.

The model is a LLaVA of one layer, small enough to be trained here in half a minute: in
an image with a red, a green and a blue field, it learns to tell of each whether it is
above or below.
"""

# sphinx_gallery_thumbnail_number = 3

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

words = ["<pad>", "<image>", "red", "green", "blue", "above", "below"]
layers = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
vision = CLIPVisionConfig(
    **layers, num_hidden_layers=1, image_size=48, patch_size=8, initializer_factor=5.0
)
special = {
    "vocab_size": len(words),
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
text = LlamaConfig(**layers, **special, num_hidden_layers=1, initializer_range=0.1)
torch.manual_seed(0)
model = LlavaForConditionalGeneration(
    LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=1,
        vision_feature_layer=-1,
    )
)


def examples(count):
    """Return images, and texts: 36 tokens of the image, each colour and where it is."""
    images = 0.1 * torch.rand(count, 3, 48, 48)
    columns = torch.rand(count, 3).argsort(-1)
    below = torch.randint(2, (count, 3))
    for image, lefts, halves in zip(images, columns, below, strict=True):
        for channel in range(3):
            top, left = (
                24 * halves[channel] + torch.randint(8, ()),
                16 * lefts[channel] + torch.randint(3, ()),
            )
            image[channel, top : top + 14, left : left + 14] = 0.9
    # Any colour may be the first; the others follow in the order red, green, blue, red.
    said = (torch.randint(3, (count, 1)) + torch.arange(3)) % 3
    answers = torch.stack([said + 2, below.gather(1, said) + 5], dim=2).flatten(1)
    return images, torch.cat([torch.ones(count, 36, dtype=torch.long), answers], dim=1)


def normalised(images):
    """Return images as the model takes them."""
    return (images - 0.2) / 0.3


optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for _ in range(160):
    images, ids = examples(64)
    logits = model(input_ids=ids, pixel_values=normalised(images)).logits[:, 36:-1]
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), ids[:, 37:].flatten()
    )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
loss.item()

# %%
# Capture an answer
# -----------------
#
# The prompt is an image and a colour; the model tells where the colour is, and goes on
# with the others. A tokenizer gives the tokens their names.

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from anylocal_bert import capture_attention

vocabulary = models.WordLevel(
    {word: number for number, word in enumerate(words)}, "<pad>"
)
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(vocabulary), pad_token=words[0]
)
tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})

images, ids = examples(1)
model.eval()
with capture_attention(model, tokenizer=tokenizer) as maps:
    answer = model.generate(
        input_ids=ids[:, :37],
        pixel_values=normalised(images),
        max_new_tokens=5,
        do_sample=False,
    )
tokenizer.decode(answer[0, 36:])

# %%
# The keys know the image: its grid of patches, and the position of the token for each.

maps[-1].keys

# %%
# A word over the image
# ---------------------
#
# The row of a colour is where the model looks to find what comes next. The title tells
# how much of the row is on the image at all: in large models it is often a few percent.

from anylocal_bert import plot

colour = words[ids[0, 36]]
ax = plot.over_image(maps, images[0], query=colour)

# %%
# Some patches draw attention whatever the word; large models have a few such sinks. The
# title tells how many there are, and ``sinks=False`` leaves them out. ``relative_to=``
# divides by what the last word of another prompt attends to in the same image: for a
# large model a neutral one, such as "describe the image". This one knows none, so that
# the picture is one colour against another.

other = 2 + (ids[:, 36:37] - 1) % 3
with capture_attention(model, tokenizer=tokenizer) as against, torch.no_grad():
    model(
        input_ids=torch.cat([ids[:, :36], other], dim=1),
        pixel_values=normalised(images),
    )
ax = plot.over_image(maps, images[0], query=colour, relative_to=against, sinks=False)

# %%
# All words of the answer
# -----------------------
#
# Each row is drawn at the word that is read. The rows that wrote the words are those
# before: ``written=True`` draws these.

figure = plot.over_words(maps, images[0], queries=slice(36, None), smooth=True)

# %%
# The page
# --------
#
# The interactive page draws the text and its images side by side. Point at a word: the
# patches that it attends to light up. Point at a patch, or move over the image by arrow
# keys: the words that attend to it light up; a click shows what the patch attends to. A
# text with several images takes a list of them, and a batch of texts a list for each.

from anylocal_bert import explore

layers = maps.generation()[-1:]
explore(layers, images=images[0], title="Where is each colour?")

# %%
# Does a colour look at its own field? Here the fields are known, so that it can be
# counted, over many images: the share of a colour's attention to the image that lies on
# its field, and the share of the image that the field takes.

images, ids = examples(200)
with capture_attention(model) as maps, torch.no_grad():
    model(input_ids=ids, pixel_values=normalised(images))
rows = maps[-1].tensor().mean(1)
fields = torch.nn.functional.avg_pool2d((images > 0.5).float(), 8)
on_field = torch.zeros(3)
for image in maps[-1].keys.media:
    for position in (36, 38, 40):
        channel = int(ids[image.text, position]) - 2
        seen = image.picture(rows[image.text, position])
        on_field[channel] += (
            (seen * fields[image.text, channel]).sum() / seen.sum() / 200
        )
dict(zip(words[2:5], on_field.tolist(), strict=True)), float(fields.mean())

# %%
# More than chance, and far from all of it: the model has found other ways too, such as
# to look at the other half. Attention shows what was read, not why.
#
# The models whose images are known: :doc:`/media`. Reference:
# :func:`anylocal_bert.plot.over_image`, :func:`anylocal_bert.plot.over_words`,
# :func:`anylocal.view.explore`, :class:`anylocal.attention.Media`.
