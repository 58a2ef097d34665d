"""Rows with wide tails."""

from torch import Tensor, distributions
from torch.distributions import Gamma

from hiertorch.data.table import Data
from hiertorch.families import laws, portable, rowforms
from hiertorch.families.family import Derivatives, Family
from hiertorch.model.latent import Latent, Values


class StudentT(Family):
    """y_i ~ StudentT(nu_y, eta_i, sigma_y): rows far from the others count less. Centre eta, scale sigma_y.

    nu_y ~ Gamma(2, 0.1) (Juarez & Steel 2010).
    """

    name = "student_t"
    formula = "StudentT(nu_y, eta, sigma_y)"
    latents = {"sigma_y": Latent(Gamma(1.0, 1.0)), "nu_y": Latent(Gamma(2.0, 0.1))}  # noqa: RUF012
    scales = ("sigma_y",)
    scale_texts = ("mean(y)", "sd(y)")

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.StudentT:
        """Student's t."""
        return distributions.StudentT(v.nu_y, eta, v.sigma_y)

    def derivatives(self, y: Tensor, eta: Tensor, v: Values, data: Data) -> Derivatives:
        """(nu + 1) r / (nu s^2 + r^2) and (nu + 1) (r^2 - nu s^2) / (nu s^2 + r^2)^2 for r = y - eta; the second is
        above 0 far from the middle.
        """
        r, width = y - eta, v.nu_y * v.sigma_y.square()
        total = width + r.square()
        first = (v.nu_y + 1.0) * r / total
        return Derivatives(first, (v.nu_y + 1.0) * (r.square() - width) / total.square())

    def exported(self) -> portable.Portable:
        """Student's t."""
        return laws.student_t("nu_y", "eta", "sigma_y")

    def row_form(self, data: Data) -> rowforms.FamilyForm:
        """Student's t with nu_y and sigma_y."""
        return rowforms.FamilyForm(rowforms.StudentT, latents={"nu": "nu_y", "scale": "sigma_y"})
