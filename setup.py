"""What is installed: `fcmae` alone, whose rooms models, finetune and launch are links to the folders here."""

from setuptools import find_packages, setup

setup(
    packages=find_packages(include=["fcmae", "fcmae.*"]),
    package_data={"fcmae": ["py.typed"], "": ["recipes/*.yaml"], "fcmae.launch.cluster": ["job.sh"]},
    zip_safe=False,
)
