"""Text models as ONNX files. ONNX Runtime or OpenVINO runs them on a CPU, faster than torch and without torch.

`export` makes the files from a model that torch has loaded, and checks their numbers. `folder` says where they are.
`model` runs them, with the tokenizer in `tokenizer`.
"""
