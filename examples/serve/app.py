"""A web service that predicts from an exported model, by NumPy alone.

MODEL=model.ht uvicorn app:create --factory
"""

import os
from typing import Any, Literal

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

try:
    from hiertorch import deploy
except ImportError:  # a copy of hiertorch/deploy.py beside this file
    import deploy  # type: ignore[import-not-found,no-redef]


class Question(BaseModel):
    """Rows, and what is asked of them."""

    rows: list[dict[str, Any]] = Field(min_length=1, max_length=10_000)
    kind: Literal["mean", "response", "probability"] = "mean"
    new_groups: Literal["sample", "population", "error"] = "error"
    ci_prob: float = Field(0.89, gt=0.0, lt=1.0)
    seed: int | None = None


def create() -> FastAPI:
    """The service of the model that the environment's MODEL names."""
    model = deploy.load(os.environ["MODEL"])
    app = FastAPI(title=model.formula)

    @app.get("/model")
    def describe() -> dict[str, Any]:
        """What was fitted, and what rows need."""
        groups = {plate: list(map(str, labels)) for plate, labels in model.groups.items()}
        return {"formula": model.formula, "family": model.family, "needs": model.needs, "groups": groups}

    @app.post("/predict")
    def predict(question: Question) -> dict[str, Any]:
        """Mean, sd and interval of each row."""
        asked = question.model_dump(exclude={"rows", "kind", "new_groups"})
        try:
            found = model.predict(question.rows, question.kind, question.new_groups, **asked)
        except deploy.DeployError as error:
            raise HTTPException(422, str(error)) from error
        summary = {name: values.tolist() for name, values in found.summary.items()}
        return {"summary": summary, "new": found.new, "categories": found.categories}

    return app
