"""`python -m nas`: the commands in the order of use."""

COMMANDS = {
    "python -m search_spaces": "what can be searched, and what a network of it costs",
    "python -m nas.finetune": "a pretrained network of timm on your images, as it is",
    "python -m nas.train_supernet": "one set of weights for every network of a space, on your images",
    "python -m latency_lut.build": "measure your device, once for each space and image size",
    "python -m latency_lut.validate": "how far that table can be trusted, on networks it has not seen",
    "python -m nas.search": "the accurate, fast and small networks of the supernet",
    "python -m nas.evaluate": "accuracy by class, and what is confused, of any network of a supernet",
    "python -m nas.compare": "which strategy found the better networks, and how fast",
    "python -m nas.retrain": "train the winners on their own, and test them",
    "python -m nas.baselines": "what would have been picked without the search, beside the winners",
    "python -m nas.prune": "part of a network taken away: a winner's, or one of timm's",
    "python -m nas.export": "ONNX, Core ML and timm files of the winners",
    "python -m nas.report": "one page with everything a run has found",
}


def main() -> None:
    print("In the order of use; each runs bare on embedded data (nas.finetune needs weights), and takes --help:\n")
    width = max(map(len, COMMANDS))
    for command, purpose in COMMANDS.items():
        print(f"  {command:{width}}  {purpose}")
    print("\nEach stage finds the newest run under runs/; name another with --run.")


if __name__ == "__main__":
    main()
